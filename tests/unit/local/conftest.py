"""Its folder holds helpers that the tests below share."""
