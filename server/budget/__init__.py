"""What a thinking budget is: pure Python, imported by gateway and engine alike."""
