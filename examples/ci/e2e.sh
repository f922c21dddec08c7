set -eu
get() { curl -4 -sf --max-time 5 -o /dev/null "$1"; }

echo "customers see the shop"
get http://web/
echo "they don't see its stock"
if get http://stock/; then exit 1; fi
