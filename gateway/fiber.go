package gateway

import (
	"errors"
	"runtime/debug"
	"slices"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"wispgate/edge"
)

// This file is all that knows Fiber: the application, its routes, its errors. What runs behind it sees an exchange.

// methods are those a route may have; HEAD comes with GET, OPTIONS is there to be told what is allowed.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (s *Server) build() {
	app := fiber.New(fiber.Config{
		AppName: s.cfg.Title, DisableStartupMessage: true, RequestMethods: methods,
		CaseSensitive: true, StrictRouting: true,
		BodyLimit: maxBody, ReadBufferSize: maxHeader, Concurrency: s.cfg.Connections,
		ReadTimeout: s.cfg.ReadTimeout, WriteTimeout: s.cfg.WriteTimeout, IdleTimeout: s.cfg.IdleTimeout,
		EnableTrustedProxyCheck: true, ReduceMemoryUsage: s.cfg.SmallBoard, DisablePreParseMultipartForm: true,
		ErrorHandler: s.fiberError,
	})
	server := app.Server()
	server.MaxConnsPerIP = s.cfg.PerAddress
	server.SecureErrorLogMessage = true
	server.NoDefaultContentType = true
	server.HeaderReceived = headerReceived
	app.All("/*", func(c *fiber.Ctx) error { return s.route(c.Context()) })
	s.app = app
	inner := app.Handler()
	server.Handler = func(ctx *fasthttp.RequestCtx) { s.wrap(ctx, inner) }
}

// headerReceived lowers the body limit where no credential is shown: the body is read before any handler could refuse it.
func headerReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if len(h.Peek(fasthttp.HeaderAuthorization)) == 0 && len(h.Peek("X-Api-Key")) == 0 {
		return fasthttp.RequestConfig{MaxRequestBodySize: maxPublicBody}
	}
	return fasthttp.RequestConfig{}
}

// maxPublicBody is the body of requests without a credential header, in octets: claim codes, sign-in forms.
const maxPublicBody = 16 << 10

// route finds the route of a request by its path as it was sent, and serves it.
func (s *Server) route(ctx *fasthttp.RequestCtx) error {
	x, _ := ctx.UserValue(exchangeKey).(*exchange)
	path := view(x.path())
	if path == "" || path[0] != '/' {
		return fiber.ErrNotFound
	}
	found := s.tree.find(path[1:], &x.params, 0)
	method := view(x.method())
	if method == "HEAD" {
		method = "GET"
	}
	switch rt := found[method]; {
	case rt != nil:
		s.serve(x, rt)
		return nil
	case found != nil:
		x.set("Allow", found.allow())
		return fiber.ErrMethodNotAllowed
	}
	return fiber.ErrNotFound
}

// wrap sees every request that fasthttp could read, before Fiber does.
func (s *Server) wrap(ctx *fasthttp.RequestCtx, inner fasthttp.RequestHandler) {
	x := s.begin(ctx)
	defer s.end(x)
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("request panicked", "request_id", string(x.id[:]), "panic", r, "stack", string(debug.Stack()))
			x.refuse(edge.ErrInternal.Error(edge.Internal))
			if x.audit {
				s.auditEnd(x)
			}
		}
	}()
	if refused, closing := guard(&ctx.Request.Header); refused != nil {
		if closing {
			ctx.SetConnectionClose()
		}
		s.deny(x, refused.Error(edge.Invalid))
		return
	}
	if !known(ctx.Method()) {
		ctx.Response.Header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE")
		s.deny(x, errMethod.Error(edge.Invalid))
		return
	}
	if len(ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding)) > 0 {
		s.deny(x, errEncoding.Error(edge.Invalid))
		return
	}
	if page := s.docs.page(x.path()); page != nil {
		s.servePage(x, page)
		return
	}
	inner(ctx)
}

func known(method []byte) bool {
	return slices.Contains(methods, string(method))
}

// fiberError answers what Fiber and fasthttp refuse by themselves. The text of err is never shown: it may hold the raw request.
func (s *Server) fiberError(c *fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	var fe *fiber.Error
	if errors.As(err, &fe) {
		status = fe.Code
	}
	ctx := c.Context()
	x, parsed := ctx.UserValue(exchangeKey).(*exchange)
	if !parsed { // the request was never complete: there is no exchange yet, and the connection ends
		x = s.begin(ctx)
		defer s.end(x)
	}
	var refused *edge.Error
	switch status {
	case fiber.StatusNotFound:
		refused = errRoute.Error(edge.NotFound)
	case fiber.StatusMethodNotAllowed:
		refused = errMethod.Error(edge.Invalid)
	case fiber.StatusRequestEntityTooLarge:
		refused = edge.ErrTooLarge.Error(edge.Invalid)
	case fiber.StatusRequestHeaderFieldsTooLarge:
		refused = errHeadersLarge.Error(edge.Invalid)
	case fiber.StatusRequestTimeout, fiber.StatusBadGateway:
		refused = errTimeout.Error(edge.Invalid)
	case fiber.StatusBadRequest:
		refused = errMalformed.Error(edge.Invalid)
	default:
		s.log.Error("router failed", "request_id", string(x.id[:]), "status", status)
		refused = edge.ErrInternal.Error(edge.Internal)
	}
	s.deny(x, refused)
	return nil
}
