//! Processes in pods and on nodes use Services through the real agent and its programs in the real kernel.
//!
//! One binary, so that the tests run in parallel; each has nodes of its own, so that they cannot meet.

mod agents;
mod bad_input;
mod change;
mod clients;
mod cluster;
mod connections;
mod copies;
mod ended;
mod exclude;
mod gone;
mod health_check;
mod kinds;
mod memory;
mod names;
mod netfilter;
mod nodes;
mod ranges;
mod reach;
mod refuse;
mod restart;
mod tools;
