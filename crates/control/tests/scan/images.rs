//! An image of the Docker Engine, as its bill of materials and its vulnerabilities.
