"""Training steps of dlmini beside PyTorch's, timed in turns. Never part of the tests."""
