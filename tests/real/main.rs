//! Real hypervisors, real guests, `kill -9`.
