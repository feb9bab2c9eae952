//! Captures of others, and what the first selectors must say of each packet.
