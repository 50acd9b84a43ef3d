"""A client of the Kubernetes API on the reactor: it knows no object of tproxy's.

`objects` and `wire` are the vocabulary; `access` and `kubeconfig` say where an API server is and who we are;
`client` asks, once or in a stream; `reflector` keeps a `store` like the server's; `election` runs the `lease`;
`recorder` writes Events. What is known, who leads and what a line means is decided without input or output.
"""
