"""End to end: paths between network namespaces, routers, proxies and sockets of the kernel."""
