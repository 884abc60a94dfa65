"""What linear map each operation is."""
