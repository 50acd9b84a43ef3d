"""What every conversation with the world needs: which addresses may be dialled, whom to trust, and how to connect."""
