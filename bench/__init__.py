"""The benchmark: tproxy beside the proxies that people use, measured alike in one run. `python -m bench --help`."""
