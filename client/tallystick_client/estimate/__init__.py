"""What a day of requests costs by each scheme, from measured and published gas figures: `tallystick estimate`."""
