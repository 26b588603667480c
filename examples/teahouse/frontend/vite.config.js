import { defineConfig } from "vite";

const backend = `http://${process.env.BACKEND_HOST ?? "127.0.0.1"}:${process.env.BACKEND_PORT ?? "8000"}`;

export default defineConfig({
  build: { target: "es2022" },
  // `npm run dev` reloads the page on every change and passes /api on to a backend that runs already.
  server: { proxy: { "/api": { target: backend, ws: true } } },
});
