"""Who may use the service: the operator's deny list, members and invitations."""
