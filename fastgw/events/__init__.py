"""One record per exchange, on its way out of the process. Never blocks the flow."""
