"""The client library's own tests, downloaded and run against this hub; nothing of them is kept in this project."""
