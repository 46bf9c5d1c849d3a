# Varnish in front of ssemiddleware: varnishd -a 127.0.0.1:8080 -f varnish.vcl
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "8000";
}

sub vcl_recv {
    if (req.http.Accept == "text/event-stream") {
        return (pipe);  # <- this line: the server learns at once that a client has disconnected, not after 42 s
    }
}

sub vcl_pipe {
    set bereq.http.Connection = "close";  # the next request of this client comes through vcl_recv again
}
