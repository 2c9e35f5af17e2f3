"""Which of many models are loaded in one tritonserver."""
