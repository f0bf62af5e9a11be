package server

import "net/http"

// Handler is what the main listeners serve.
func (s *Server) Handler() http.Handler { return s.main.Handler }
