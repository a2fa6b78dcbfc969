"""What a device or a strategy asks of code that computes, and what ranks share."""
