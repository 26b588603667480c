//! The example shop: its images are built of the Dockerfiles that were asked for, word for word.

use std::path::Path;

/// As the request has them.
const FRONTEND: &str = "\
# Multi-stage build for optimized production image
FROM node:18-alpine AS builder
WORKDIR /app
COPY package*.json ./
RUN npm ci --only=production
COPY . .
RUN npm run build

FROM nginx:alpine
COPY --from=builder /app/dist /usr/share/nginx/html
COPY nginx.conf /etc/nginx/nginx.conf
EXPOSE 80
";
const BACKEND: &str = "\
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
EXPOSE 8000
CMD [\"uvicorn\", \"main:app\", \"--host\", \"0.0.0.0\", \"--port\", \"8000\"]
";

#[test]
fn the_dockerfiles_of_the_request_are_used_to_the_byte() {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/teahouse");
    for (service, wanted) in [("frontend", FRONTEND), ("backend", BACKEND)] {
        let text = std::fs::read(shop.join(service).join("Dockerfile")).expect("it is there");
        assert_eq!(text, wanted.as_bytes(), "the Dockerfile of {service}");
    }
}
