"""How many bytes a request may have."""

# What the other fields and the multipart wrapping may add to the picture; and what any other request may send.
FORM_BYTES = 64 * 1024
# In base64 there are 4 bytes for each 3. It may be broken into lines, and escaped as in a URL, which makes three
# characters of two of its 64 and of each line's end.
BASE64_GROWTH = 1.54


def largest_upload(max_upload_mb: int) -> int:
    return int(max_upload_mb * 1_000_000 * BASE64_GROWTH) + FORM_BYTES
