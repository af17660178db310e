"""The API that clients of the Hub speak: one small module per area, each with a table `ROUTES`."""
