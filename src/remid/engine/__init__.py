"""Where scoring and generation run: this machine, a Ray cluster, a server, vLLM; all behind two small protocols."""
