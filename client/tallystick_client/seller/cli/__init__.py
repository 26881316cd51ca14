"""The sellers' commands of `tallystick`."""
