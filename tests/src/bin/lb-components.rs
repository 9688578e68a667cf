//! `lb-components ensure all|NAME...`: builds the Kubernetes programs that the tests need and prints where they are.
//!
//! For `cargo xtask`, which does this before the tests start, so that a build is not counted as a slow test. All that
//! it does is in [`lb_tests::components`].

use anyhow::{Context as _, Result, bail};
use lb_tests::components::{Component, ensure};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match args.split_first() {
        Some((command, names)) if command == "ensure" && !names.is_empty() => components(names)?,
        _ => bail!("usage: lb-components ensure all|NAME...\nnames: {}", Component::ALL.map(Component::name).join(" ")),
    };
    for component in wanted {
        println!("{component} {}", ensure(component)?.display());
    }
    Ok(())
}

fn components(names: &[String]) -> Result<Vec<Component>> {
    if names == ["all"] {
        return Ok(Component::ALL.to_vec());
    }
    names.iter().map(|name| Component::by_name(name).with_context(|| format!("there is no component {name}"))).collect()
}
