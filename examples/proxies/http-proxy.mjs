// npm's http-proxy in front of ssemiddleware. By itself it never closes its connection to the server when a client has disconnected, so a
// silent stream would keep its thread for ever. http-proxy-middleware needs none of this.
import http from "node:http";
import httpProxy from "http-proxy";

const proxy = httpProxy.createProxyServer({ target: "http://127.0.0.1:8000" });

proxy.on("proxyReq", (upstream, request, response) => {
  response.on("close", () => upstream.destroy()); // <- this line
});
proxy.on("proxyRes", (answer, request, response) => {
  answer.on("close", () => answer.complete || response.destroy()); // <- and this one: a stream that was cut does not hang
});
proxy.on("error", (error, request, response) => {
  if (!response.headersSent) response.writeHead(502).end();
});

http.createServer((request, response) => proxy.web(request, response)).listen(8080, "127.0.0.1");
