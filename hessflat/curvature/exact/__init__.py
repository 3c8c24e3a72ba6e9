"""Every eigenvalue, where the size allows."""
