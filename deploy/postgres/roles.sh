#!/bin/sh
# Give each service a role that owns the schema of its name, which no other service's role may read: where one may, by
# a grant or as a member of another role, it fails at its end. Run again it sets the passwords anew and hands over
# tables that another role made: of an older stack, or of a restored backup.
# Names and passwords come from the services' connection strings, the files postgres_dsn_SERVICE in the folder SECRETS:
# postgresql://NAME:PASSWORD@HOST..., the password of letters and digits.
# Others than these roles and superusers may not connect to the database afterwards: it is MinT's alone.
# Connects as psql does (PGHOST, PGUSER, ...), as a superuser: as that of the container where the image starts this.
set -eu
export PGUSER="${PGUSER:-${POSTGRES_USER:-postgres}}"
export PGDATABASE="${PGDATABASE:-${POSTGRES_DB:-$PGUSER}}"
users=" "
for schema in gateway loader registry rollout trainer; do
  login=$(cat "${SECRETS:-/run/secrets}/postgres_dsn_$schema")
  login=${login#*://}
  login=${login%%[/?#]*}
  case $login in ?*:?*@*) ;; *) echo "postgres_dsn_$schema: no user and password before an @" >&2; exit 1 ;; esac
  login=${login%@*}
  case $login in *[%@]*) echo "postgres_dsn_$schema: % and @ in user and password are not read" >&2; exit 1 ;; esac
  case $users in *" ${login%%:*} "*) echo "postgres_dsn_$schema: another service has its user" >&2; exit 1 ;; esac
  users="$users${login%%:*} "
  # In the environment rather than among the arguments, which every process may read.
  SCHEMA=$schema ROLE=${login%%:*} PASSWORD=${login#*:} \
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=VERBOSITY=terse --single-transaction <<'SQL'
SET client_min_messages = warning;
SET search_path = pg_catalog;
-- The server's log gets no password.
SELECT format('SET %I = %L', name, value)
FROM (VALUES ('log_statement', 'none'), ('log_min_error_statement', 'panic'), ('log_min_duration_statement', '-1'))
  AS setting (name, value)
WHERE has_parameter_privilege(name, 'SET') \gexec
\getenv schema SCHEMA
\getenv role ROLE
\getenv password PASSWORD
SELECT format('CREATE ROLE %I LOGIN', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SET mint.role = :'role';
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = current_setting('mint.role')
             AND (rolname = current_user OR rolsuper OR rolcreaterole OR rolbypassrls)) THEN
    RAISE EXCEPTION 'the role % may read every table: give the service one of its own', current_setting('mint.role');
  END IF;
END $$;
ALTER ROLE :"role" PASSWORD :'password';
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
CREATE SCHEMA IF NOT EXISTS :"schema";
ALTER SCHEMA :"schema" OWNER TO :"role";
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'role')
FROM pg_class WHERE relnamespace = :'schema'::regnamespace AND relkind IN ('r', 'p', 'v') \gexec
SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, :'role')
FROM pg_proc WHERE pronamespace = :'schema'::regnamespace \gexec
SQL
done
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=VERBOSITY=terse <<'SQL'
SET client_min_messages = warning;
SET search_path = pg_catalog;
SELECT format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
-- By itself, or as a member of whichever role, with or without inheriting.
DO $$ DECLARE found record; BEGIN
  SELECT reader.nspowner::regrole AS reader, role.oid::regrole AS role, read.nspname AS schema INTO found
  FROM pg_namespace AS reader, pg_namespace AS read, pg_roles AS role
  WHERE reader.nspname IN ('gateway', 'loader', 'registry', 'rollout', 'trainer')
    AND read.nspname IN ('gateway', 'loader', 'registry', 'rollout', 'trainer')
    AND reader.nspname <> read.nspname AND pg_has_role(reader.nspowner, role.oid, 'MEMBER')
    AND has_schema_privilege(role.oid, read.oid, 'USAGE')
  ORDER BY role.oid = reader.nspowner, reader.nspname, read.nspname LIMIT 1;
  IF found.role = found.reader THEN
    RAISE EXCEPTION 'the role % may use the schema %: revoke its rights there, or those of PUBLIC',
      found.reader, found.schema;
  ELSIF found IS NOT NULL THEN
    RAISE EXCEPTION 'the role % may use the schema % as a member of %: revoke that',
      found.reader, found.schema, found.role;
  END IF;
END $$;
SQL
