"""Object fields learned from posed pictures, and poses corrected by them."""
