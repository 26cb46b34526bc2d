//! Compiles the .proto files, without protoc: the servers for the library, our own client, and GoBGP's for the tests.

use std::env;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["proto/v3.proto", "proto/v4.proto"], ["proto"])?;
    let out = env::var("OUT_DIR")?;
    let client = Path::new(&out).join("client");
    std::fs::create_dir_all(&client)?;
    let build = || tonic_prost_build::configure().build_transport(false);
    build().build_client(false).compile_fds(descriptors.clone())?;
    build().build_server(false).out_dir(client).compile_fds(descriptors)?;
    let own = protox::compile(["proto/fairway.proto"], ["proto"])?;
    let json = "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]";
    build().message_attribute(".", json).compile_fds(own)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
