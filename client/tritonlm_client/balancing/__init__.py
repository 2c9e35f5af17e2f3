"""Which of several servers takes a request: from their loads, by a policy; needs no torch."""
