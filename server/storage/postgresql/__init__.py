"""The store on PostgreSQL, which several nodes can share. The only home of asyncpg."""
