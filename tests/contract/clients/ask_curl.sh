# What documents tell people to type: the key in each header that clients use, with and without a stream.
set -e
body='{"model":"mock","messages":[{"role":"user","content":"Tell me something."}]}'
stream='{"model":"mock","stream":true,"messages":[{"role":"user","content":"Tell me something."}]}'
for header in "Authorization: Bearer $KEY" "x-api-key: $KEY" "api-key: $KEY"; do
    for data in "$body" "$stream"; do
        curl -sSf "$BASE_URL/v1/chat/completions" -H "$header" \
            -H "Content-Type: application/json" -d "$data" >/dev/null
    done
done
curl --version | head -n 1
