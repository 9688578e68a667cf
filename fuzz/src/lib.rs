//! What the fuzz targets do with their input. Each takes any bytes, makes packets or steps of them, and panics where the
//! packet layer breaks a promise. The world that it all happens in, and the naive model, are those of lb-common's own tests.
//! Nothing here decides what is right beside them; nothing here is needed by them.

#[path = "../../lb-common/tests/packet/main.rs"]
#[expect(dead_code, unused_imports, reason = "the tests themselves are left out")]
mod packet;

pub mod frames;
pub mod histories;
