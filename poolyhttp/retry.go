package poolyhttp

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// retries reports whether the user wants another answer instead of this one.
func (t *Transport) retries(resp *http.Response) bool {
	return slices.Contains(t.retryStatuses, resp.StatusCode)
}

// isBad reports whether a good answer of another copy of the request is better.
func (t *Transport) isBad(resp *http.Response) bool {
	return resp.StatusCode >= 500 || t.retries(resp)
}

// afterAnswer returns the request to send again after an answer, and when. The answer is then read
// whole, so that its lease has ended, and can still be returned. afterAnswer reports false if the
// answer must be returned now.
func (t *Transport) afterAnswer(
	ctx context.Context, req *http.Request, resp *http.Response,
) (next *http.Request, wait time.Duration, ok bool) {
	wait = retryAfter(resp.Header)
	deadline, limited := ctx.Deadline()
	switch {
	case !replayable(req), wait > t.maxRetryAfter, limited && wait >= time.Until(deadline):
		return nil, 0, false
	case !readWhole(resp):
		return nil, 0, false
	}
	next, ok = again(req, cutOff, false)
	return next, wait, ok
}

// mostOfAnswer is how much of an answer is read to send its request again.
const mostOfAnswer = 64 << 10

// readWhole reads an answer's body, which can be read again. It reports false if the body is too
// long or breaks off.
func readWhole(resp *http.Response) bool {
	if resp.Body == nil {
		return true
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, mostOfAnswer+1))
	body := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), body), body}
	return err == nil && len(start) <= mostOfAnswer
}

// retryAfter returns how long an answer asks to wait (RFC 9110, section 10.2.3).
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// sleep waits. It reports false if the context ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
