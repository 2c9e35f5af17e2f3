"""Installing, checking and launching tritonserver."""
