"""UDP sockets, on any reactor and with many datagrams in one system call: a node's and a service's."""
