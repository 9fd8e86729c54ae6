"""The store on PostgreSQL, which several nodes share. The only importer of asyncpg."""
