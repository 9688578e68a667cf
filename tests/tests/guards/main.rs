//! The guards themselves: pods reach each other without any agent, and nothing outlives its guard.

mod instruments;
mod leftovers;
mod network;
