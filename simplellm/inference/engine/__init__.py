"""One model for many clients: replies that are computed together, token by token."""
