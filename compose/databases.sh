# Sourced by the image of PostgreSQL when its volume is made. Passwords by environment: arguments can be listed.
own_database() {
  OWNER_PASSWORD="$2" psql -v ON_ERROR_STOP=1 -v name="$1" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
  \getenv password OWNER_PASSWORD
  CREATE ROLE :"name" LOGIN PASSWORD :'password';
  CREATE DATABASE :"name" OWNER :"name";
  REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}
own_database prefect "$PREFECT_DB_PASSWORD"
own_database ledger "$LEDGER_DB_PASSWORD"
