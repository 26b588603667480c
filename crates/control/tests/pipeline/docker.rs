//! Whether a Docker Engine answers here.

use engine::docker::build::ImageBuilder;

/// The Engine, if one answers; else a loud line, and a failure where a skip is one.
pub async fn engine() -> Option<ImageBuilder> {
    match ImageBuilder::connect().await {
        Ok(builder) => Some(builder),
        Err(error) => {
            let set = |name| std::env::var_os(name).is_some();
            assert!(!(set("LAUNCHWAY_REQUIRE_DOCKER") || set("CI")), "{error}");
            println!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
            None
        }
    }
}
