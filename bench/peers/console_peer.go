// The peer: golang.org/x/crypto/ssh with golang.org/x/term, which does no work at all.
// Environment: PEER_DIR has host_key, authorized_key and replies/, a file for each command that it answers, named like
// the command with _ for /. PEER_PORT is where it listens.
package main

import (
	"bytes"
	"errors"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

func file(name string) []byte {
	content, err := os.ReadFile(filepath.Join(os.Getenv("PEER_DIR"), name))
	if err != nil {
		log.Fatal(err)
	}
	return content
}

type replies map[string][]byte

func load() replies {
	found := replies{}
	names, err := filepath.Glob(filepath.Join(os.Getenv("PEER_DIR"), "replies", "*"))
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range names {
		found[filepath.Base(name)] = file("replies/" + filepath.Base(name))
	}
	return found
}

func (known replies) to(command string) []byte {
	return known[strings.ReplaceAll(strings.TrimSpace(command), "/", "_")]
}

func end(channel ssh.Channel) {
	channel.SendRequest("exit-status", false, make([]byte, 4))
	channel.Close()
}

func shell(channel ssh.Channel, known replies) {
	terminal := term.NewTerminal(channel, "admin@ds1@ecss1:/$ ")
	for {
		line, err := terminal.ReadLine()
		if err != nil {
			end(channel)
			return
		}
		terminal.Write(known.to(line))
	}
}

func session(offered ssh.NewChannel, known replies) {
	if offered.ChannelType() != "session" {
		offered.Reject(ssh.UnknownChannelType, "")
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	for request := range requests {
		request.Reply(true, nil)
		switch request.Type {
		case "exec":
			var asked struct{ Command string }
			if err := ssh.Unmarshal(request.Payload, &asked); err != nil {
				return
			}
			channel.Write(known.to(asked.Command))
			end(channel)
		case "shell":
			go shell(channel, known)
		}
	}
}

func serve(socket net.Conn, config *ssh.ServerConfig, answers replies) {
	_, channels, requests, err := ssh.NewServerConn(socket, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		go session(offered, answers)
	}
}

func main() {
	answers := load()
	known, _, _, _, err := ssh.ParseAuthorizedKey(file("authorized_key"))
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(file("host_key"))
	if err != nil {
		log.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(key.Marshal(), known.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("unknown key")
	}}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PEER_PORT"))
	if err != nil {
		log.Fatal(err)
	}
	for {
		socket, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(socket, config, answers)
	}
}
