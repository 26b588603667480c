//! The shim alone, for the tests of this crate; the product calls it as `launchway shim`.

fn main() {
    engine::shim::main(std::env::args_os().skip(1))
}
