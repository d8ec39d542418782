"""How a program asks the page of `cilmp serve`."""

HOW = """Three calls: upload an image, ask, fetch the answer, JSON with what each run says.

    FILE=$(curl -s -F files=@scan.png {address}/gradio_api/upload | tr -d '[]"')
    EVENT=$(curl -s {address}/gradio_api/call/answer -H 'Content-Type: application/json' \\
        -d '{{"data": [{{"path": "'$FILE'", "meta": {{"_type": "gradio.FileData"}}}}]}}' | cut -d'"' -f4)
    curl -s -N {address}/gradio_api/call/answer/$EVENT

With a token, first: curl -s -c jar -F username=cilmp -F password=TOKEN {address}/login; then -b jar with every call."""
