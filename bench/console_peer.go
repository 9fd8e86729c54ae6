// The peer: golang.org/x/crypto/ssh with golang.org/x/term, which does no work at all.
// Environment: PEER_DIR has host_key and authorized_key, reply.txt is what every command answers. Prints its port.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

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

func end(channel ssh.Channel) {
	channel.SendRequest("exit-status", false, make([]byte, 4))
	channel.Close()
}

func shell(channel ssh.Channel, reply []byte) {
	terminal := term.NewTerminal(channel, "admin@ds1@ecss1:/$ ")
	for {
		if _, err := terminal.ReadLine(); err != nil {
			end(channel)
			return
		}
		terminal.Write(reply)
	}
}

func session(offered ssh.NewChannel, reply []byte) {
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
			channel.Write(reply)
			end(channel)
		case "shell":
			go shell(channel, reply)
		}
	}
}

func serve(socket net.Conn, config *ssh.ServerConfig, reply []byte) {
	_, channels, requests, err := ssh.NewServerConn(socket, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		go session(offered, reply)
	}
}

func main() {
	reply := file("reply.txt")
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
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		socket, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(socket, config, reply)
	}
}
