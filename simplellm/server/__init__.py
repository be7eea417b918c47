"""HTTP API in the shape of OpenAI's, and a web page. Responds; does not print."""
