"""Jobs: their states, leases, events and replays."""
