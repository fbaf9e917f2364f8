"""Networks that follow the backbone in dense tasks, without losses."""
