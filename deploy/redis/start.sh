#!/bin/sh
# start.sh FOLDER COMMAND...: gives Redis a password and an ACL in FOLDER, then becomes COMMAND --aclfile FOLDER/users.acl
#
# The password is REDIS_PASSWORD, else the one that FOLDER has, else a new one that nobody needs to know: whoever may
# use Redis reads FOLDER/password. With the file deleted, the next start makes another.
set -eu
umask 022
folder=$1
shift

if [ -n "${REDIS_PASSWORD:-}" ]; then
  printf '%s' "$REDIS_PASSWORD" >"$folder/password.new"
elif [ ! -s "$folder/password" ]; then
  head -c 32 /dev/urandom | sha256sum | head -c 64 >"$folder/password.new"
fi
[ ! -e "$folder/password.new" ] || mv "$folder/password.new" "$folder/password"
unset REDIS_PASSWORD

hash=$(sha256sum <"$folder/password" | head -c 64)
{ grep -v '^# ' "$(dirname "$0")/users.acl" | tr '\n' ' ' | sed "s/PASSWORD_SHA256/$hash/"; echo; } >"$folder/users.acl"
exec "$@" --aclfile "$folder/users.acl"
