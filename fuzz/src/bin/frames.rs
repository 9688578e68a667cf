//! The libFuzzer target of [`lb_fuzz::frames`]. Where the environment names a directory (`LB_FUZZ_SEEDS`), it begins by writing
//! there what a corpus begins with.
#![no_main]

use std::{env, fs, io, path::Path};

fn write_seeds(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (number, seed) in lb_fuzz::frames::seeds().into_iter().enumerate() {
        fs::write(directory.join(format!("seed-{number:03}")), seed)?;
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(directory) = env::var_os("LB_FUZZ_SEEDS") {
            write_seeds(Path::new(&directory)).expect("the seeds can be written");
        }
    },
    |data: &[u8]| lb_fuzz::frames::run(data)
);
