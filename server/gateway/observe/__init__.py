"""What operators see of the gateway: metrics, traces, a line per request, and the requests that run now."""
